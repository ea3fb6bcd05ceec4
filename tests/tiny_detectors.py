"""Options with which the box detectors train on `scenes` in a second."""

from cpr.data.datasets import make_spec

# Config file and key of the number of classes.
DETECTORS = {
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "FasterRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RepPoints": "MODEL.REPPOINTS.NUM_CLASSES",
}


def detector_opts(name, scenes, output, *, num_classes=2, boxes=False, **overrides):
    """KEY VALUE options for configs/Base-<name>.yaml, trained and tested on `scenes`."""
    spec = make_spec(*scenes)
    levels = "['p3','p4']"
    opts = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.NORM": "GN",
        "MODEL.RESNETS.OUT_FEATURES": "['res3']",
        "MODEL.FPN.IN_FEATURES": "['res3']",
        "MODEL.FPN.EXTRA_LEVELS": 1,
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.ANCHOR_GENERATOR.SIZES": "[[16],[32]]",
        "MODEL.RETINANET.IN_FEATURES": levels,
        "MODEL.RETINANET.NUM_CONVS": 1,
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
        "MODEL.ROI_HEADS.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "MODEL.REPPOINTS.IN_FEATURES": levels,
        "MODEL.REPPOINTS.NUM_CONVS": 1,
        "MODEL.REPPOINTS.CONV_DIM": 32,
        "MODEL.REPPOINTS.POINT_CONV_DIM": 32,
        "MODEL.PSEUDO_BOX.SIZE": 16.0,
        DETECTORS[name]: num_classes,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.RANDOM_FLIP": "none",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.OPTIMIZER": "AdamW",
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 3,
        "SOLVER.STEPS": "()",
        "SOLVER.WARMUP_ITERS": 0,
        "SEED": 1,
        "DATASETS.TRAIN": spec.replace("points:", "boxes:") if boxes else spec,
        "DATASETS.TEST": spec,
        "OUTPUT_DIR": output,
    }
    opts.update(overrides)
    return [str(item) for pair in opts.items() for item in pair]
