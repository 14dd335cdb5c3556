"""open_clip's own trainer on rank-sliced tars, with every joint batch whole: `python -m superbatch.openclip -- <args>`.

open_clip (up to 3.3) has no switch for its two shuffles: one of the list of tars, one of 5,000 samples behind it. It
drops what it cannot read, repeats tars where the numbers do not divide, and reads the same tars in every epoch. This
package changes that while the training set is built, and nothing else: model, loss, optimizer, schedule, checkpoints,
and the validation sets are open_clip's. It imports open_clip when it runs, not before.
"""
