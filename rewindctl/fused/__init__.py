"""One update of a ResNet or WRN of ours as about a hundred kernels of our own, for any number of trials at once.

Tensors lie as (trials, images, height, width, channels) in memory; every kernel has a trial axis.
"""
