"""`python -m sandkeeper` is the `sandkeeper` command."""

from sandkeeper.entry import main

if __name__ == "__main__":
    raise SystemExit(main())
