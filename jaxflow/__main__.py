"""`python -m jaxflow` is the command `jaxflow`."""

from .cli import main

if __name__ == "__main__":
    main()
