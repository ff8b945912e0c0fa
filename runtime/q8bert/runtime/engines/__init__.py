"""What runs a model: sessions, providers, options."""
