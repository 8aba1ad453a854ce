"""From input to prediction: engines, executor, batcher."""
