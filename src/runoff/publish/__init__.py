"""From a training run to a model that others load: files, card, upload."""
