"""Point localizer runtime: numpy and onnxruntime, never torch, detectron2 or `cpr`."""
