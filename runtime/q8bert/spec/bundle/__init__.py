"""The bundle: its manifest, its files and their checksums, its parts that are read alone, its graphs for targets."""
