"""What adapters share, whatever their framework: batches, where samples are in a tensor, and noise."""
