"""Defaults of trials. They import nothing, so commands can show them in their help."""

# Share of the requests that a version on trial takes: a canary answers them, a shadow does not.
CANARY_SHARE = 0.05
SHADOW_SHARE = 1.0
# Share of images with another best class than in production, beyond which a trial ends.
MAX_DISAGREEMENT = 0.1
# Engine time per image over that of production, beyond which it ends.
MAX_SLOWDOWN = 3.0
