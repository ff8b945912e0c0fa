"""Many small requests, put together to batches."""
