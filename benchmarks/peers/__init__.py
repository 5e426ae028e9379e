"""The peers' side of each benchmark: other projects, each run in a virtual environment of its own."""
