"""Code that keeps its state: kernels and shells as contexts, executions as journals."""
