"""From videos and folders of images to pictures worth annotating."""
