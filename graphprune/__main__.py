"""``python -m graphprune`` is ``graphprune``."""

from graphprune.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
