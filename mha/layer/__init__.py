"""Our own attention layer, and the bias that is left where a layer keeps no head."""
