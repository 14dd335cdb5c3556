"""The Superbatch server: an offline data-curation service for contrastive pre-training."""
