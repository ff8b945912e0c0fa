"""Files of rows, as they lie about, in pieces that fit into memory."""
