"""ICText-LT: characters photographed on chips, cut out of ICText, or rendered where nobody may have them."""
