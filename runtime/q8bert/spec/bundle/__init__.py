"""The bundle: manifest, files and checksums, parts that are read alone, graphs for targets; bundles by name."""
