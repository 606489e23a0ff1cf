"""``python -m fullsend.cli``: the command where its script is not on the path."""

from fullsend.cli import main

if __name__ == "__main__":
    main(prog_name="fullsend")
