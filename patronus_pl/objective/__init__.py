"""What `PatronusModule` minimises beside the denoising loss: one file a penalty."""
