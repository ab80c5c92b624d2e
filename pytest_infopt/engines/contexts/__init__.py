"""What engines share whose library keeps sequences in a context, and computes them in passes."""
