//! The sproto encoding, its packing and the announcement of a new client.
