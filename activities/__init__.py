"""What the pipeline does in the outside world, one module a step. Messages stand beside the activity that owns them."""
