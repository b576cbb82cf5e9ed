"""What the papers and the released weights scored, beside which a result may stand; runs nothing."""
