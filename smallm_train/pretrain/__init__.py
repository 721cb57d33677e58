"""Pre-training of the embedded encoder: corpus -> vocabulary -> token streams -> model."""
