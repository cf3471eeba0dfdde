"""Pictures: any picture file to ink, to the form of the training images, to an answer."""
