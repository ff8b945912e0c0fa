"""Files of token ids: TFRecord as Google's run_classifier.py writes it, and MindRecord with the same columns."""
