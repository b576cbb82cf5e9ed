"""Published results of the papers and of released weights, beside which a result may stand; runs nothing."""
