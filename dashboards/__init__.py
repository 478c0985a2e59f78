"""marimo apps over a workspace's sweeps; ``rsas dashboard`` serves them."""
