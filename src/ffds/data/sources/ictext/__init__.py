"""ICText-LT: photographed characters on chips, read, cut out of ICText, or rendered as look-alikes."""
