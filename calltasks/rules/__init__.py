"""What the pipeline promises, as functions without input or output."""
