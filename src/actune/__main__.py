"""``python -m actune`` is ``actune``."""

from actune.cli import main

if __name__ == "__main__":
    main()
