"""Write README's table, docs/results.md and their pictures: `python scripts/results.py`."""

from presseco.results import main

if __name__ == "__main__":
    main()
