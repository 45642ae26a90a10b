"""Write data/README.md and its pictures from the articles: `python scripts/corpus_figures.py`."""

from presseco.datasheet import main

if __name__ == "__main__":
    main()
