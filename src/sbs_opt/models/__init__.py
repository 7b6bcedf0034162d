"""What is decided: requests, deployments, the canonical window, placements, and what they cost."""
