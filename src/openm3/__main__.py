"""`python -m openm3`, which torchrun needs."""

from openm3.cli.main import main

if __name__ == "__main__":
    main()
