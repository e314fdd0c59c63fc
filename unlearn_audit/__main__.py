"""`python -m unlearn_audit`: the command line, for where its script is not on the path."""

from unlearn_audit.cli import main

if __name__ == "__main__":
    main()
