"""Configuration keys that this project adds to Detectron2's.

Units are stated per key: "cells" are cells of the feature map that the head works on, "px" are
pixels of the network input unless "original px" is said. Equations are those of the CVPR 2022
paper "Object Localization under Single Coarse Point Supervision".
"""

from detectron2.config import CfgNode as CN


def add_cpr_config(cfg: CN) -> None:
    """Adds the keys of CPRNet, P2PNet, RepPoints and the point evaluators to `cfg`, in place."""
    _add_cprnet(cfg)
    _add_p2pnet(cfg)
    _add_reppoints(cfg)
    _add_boxes(cfg)
    _add_training(cfg)
    _add_evaluation(cfg)
    _add_self_refinement(cfg)


def _add_cprnet(cfg: CN) -> None:
    cfg.MODEL.CPRNET = CN()
    node = cfg.MODEL.CPRNET
    # K, the number of classes.
    node.NUM_CLASSES = 80
    # The one FPN level that is used; p3 for COCO and DOTA, p2 for SeaPerson.
    node.IN_FEATURE = "p3"
    # The tower: NUM_CONVS x (3x3 conv, NORM, ReLU) of CONV_DIM channels, shared by both branches.
    node.NUM_CONVS = 4
    node.CONV_DIM = 256
    # "GN" (32 groups), "BN", "SyncBN" or "".
    node.NORM = "GN"
    # Prior probability of a positive: bias of the classification branch.
    node.PRIOR_PROB = 0.01
    # Start of the head's convs: "normal" (standard deviation 0.01, official code) or "xavier"
    # (paper).
    node.HEAD_INIT = "normal"
    # R of Eq. 1 and 2: circles in a bag and radius around a click without negatives, in cells.
    node.RADIUS = 8
    # u0 of Eq. 1: circle r holds u0 * r points.
    node.U0 = 8
    # The region that bags are sampled from and that holds no negatives (Table 5a): "circle", or
    # "rectangle", whole cells in a rectangle of the circle's area (U0 is not used).
    node.REGION = "circle"
    # Width : height of the rectangle.
    node.REGION_ASPECT = 1.0
    # Whether the annotated point belongs to its own bag in L_MIL: True in the official code, False
    # in Eq. 1. For the refinement see REFINE.ANNOTATED_POINT.
    node.ANNOTATED_POINT_IN_BAG = True
    # Bilinear feature index = p / stride - SAMPLE_OFFSET. 0.5 puts cell (i, j) at its centre
    # ((i + 0.5) * stride, ...); the official code uses 0.
    node.SAMPLE_OFFSET = 0.5
    # L = LOSS_SCALE * (L_MIL + ALPHA_ANN * L_ann + ALPHA_NEG * L_neg), Eq. 3. The paper's weights
    # are 1 : 0.5 : 3, the official code scales all of them by 0.25. A term with 0 is left out.
    node.LOSS_SCALE = 0.25
    node.ALPHA_MIL = 1.0
    node.ALPHA_ANN = 0.5
    node.ALPHA_NEG = 3.0
    # The same for L_pos of Table 2, which takes each bag point as a positive, in place of L_MIL.
    node.ALPHA_POS = 0.0
    # gamma of the focal loss, Eq. 4.
    node.GAMMA = 2.0
    # "global": the number of objects M is summed over all ranks, so that N processes equal one.
    # "local": per rank, as in the official code.
    node.LOSS_NORMALIZER = "global"
    # True: ignored and crowd regions count as background (official code). False: their cells are
    # left out of the negative loss.
    node.IGNORE_AS_BACKGROUND = False

    # Algorithm 2. Each constraint can be switched off for ablations (Table 4c).
    node.REFINE = CN()
    # Constraint I: score > DELTA1 and score > DELTA2 * score of the annotated point.
    node.REFINE.CONSTRAINT_I = True
    node.REFINE.DELTA1 = 0.1
    node.REFINE.DELTA2 = 0.5
    # Constraint II: the annotated class has the highest score of all classes at the point.
    node.REFINE.CONSTRAINT_II = True
    # Constraint III: the annotated point is the nearest one of its class in the image.
    node.REFINE.CONSTRAINT_III = True
    # An object whose kept points have a lower mean score than this keeps its click.
    node.REFINE.SCORE_THRESH = 0.1
    # "candidate": the annotated point is kept only if it passes the constraints (official code).
    # "forced": it is always kept (Algorithm 2 as printed).
    node.REFINE.ANNOTATED_POINT = "candidate"


def _add_p2pnet(cfg: CN) -> None:
    cfg.MODEL.P2PNET = CN()
    node = cfg.MODEL.P2PNET
    node.NUM_CLASSES = 80
    node.IN_FEATURE = "p3"
    # Towers of NUM_CONVS x (3x3 conv, NORM, ReLU): one for the classes and one for the offsets, or
    # a single one for both with SHARED_TOWER.
    node.NUM_CONVS = 4
    node.CONV_DIM = 256
    node.NORM = "GN"
    node.SHARED_TOWER = False
    # As MODEL.CPRNET.PRIOR_PROB and HEAD_INIT. With the cross-entropy loss all classes together
    # start at PRIOR_PROB.
    node.PRIOR_PROB = 0.01
    node.HEAD_INIT = "normal"
    # Reference points per location, a square number: 1 (official CPR code), 4 (original P2PNet).
    node.POINTS_PER_LOCATION = 1
    # Reference of cell i = (i + REFERENCE_OFFSET) * stride; the official code uses 0.
    node.REFERENCE_OFFSET = 0.5
    # A predicted point is its reference + output * OFFSET_SCALE, in px; 0 means the stride, so that
    # outputs are in cells (official CPR code). The original P2PNet uses 100.
    node.OFFSET_SCALE = 0.0
    # Label assignment: "topk" (candidate based, on the device) or "hungarian" (the official rounds
    # of one-to-one matching, on the CPU).
    node.ASSIGNER = "topk"
    # k: positives per object; 1 is one-to-one, with "hungarian" the original P2PNet's.
    node.TOPK = 5
    # "topk" looks for positives among the references within this many cells of the object.
    node.CANDIDATE_RADIUS = 8
    # cost = COST_CLASS * class cost + COST_POINT * distance in px. COST_RULE, the class cost:
    # "focal", or "probability", minus the score of the object's class. COST_DISTANCE: "l1" or "l2".
    # The original P2PNet: 1 * "probability" + 0.05 * "l2".
    node.COST_RULE = "focal"
    node.COST_DISTANCE = "l1"
    node.COST_CLASS = 2.0
    node.COST_POINT = 0.1
    # Class loss. "focal": sigmoid scores, summed, over the positives (CPR paper). "cross_entropy":
    # softmax over the classes and "no object", whose references have the weight NO_OBJECT_WEIGHT;
    # the mean over all references (original P2PNet). It also decides how scores are computed.
    node.CLASS_LOSS = "focal"
    node.NO_OBJECT_WEIGHT = 0.5
    # Of the focal loss and of the focal cost.
    node.FOCAL_ALPHA = 0.25
    node.FOCAL_GAMMA = 2.0
    # Point loss, summed over the positives and divided by their number, times POINT_LOSS_WEIGHT.
    # "smooth_l1" (SMOOTH_L1_BETA): of the error in cells (official CPR code). "l2": the squared
    # error in px^2 (original P2PNet, with the weight 0.0002).
    node.POINT_LOSS = "smooth_l1"
    node.SMOOTH_L1_BETA = 1.0 / 9.0
    node.POINT_LOSS_WEIGHT = 0.5
    # As MODEL.CPRNET.LOSS_NORMALIZER, for the number of positives.
    node.LOSS_NORMALIZER = "global"
    # As MODEL.CPRNET.IGNORE_AS_BACKGROUND.
    node.IGNORE_AS_BACKGROUND = False

    # Decoding.
    node.SCORE_THRESH = 0.05
    # Locations kept, by their best class, before point NMS.
    node.PRE_NMS_TOPK = 1000
    # "pseudo_box": two points conflict if squares of NMS_SIZE (original px) around them overlap by
    # an IoU above NMS_IOU (papers). "radius": if they are closer than NMS_RADIUS (original px).
    # "none": no NMS, for one-to-one training (original P2PNet).
    node.NMS_RULE = "pseudo_box"
    node.NMS_SIZE = 32.0
    node.NMS_IOU = 0.01
    node.NMS_RADIUS = 10.0
    # Points kept per image, all classes together.
    node.MAX_DETS = 100
    # Points predicted in the padding right of and below the image. "drop": they are no detections,
    # as in the deployed runtime. "clamp": they are moved onto the border (official code).
    node.PADDING_POINTS = "drop"


def _add_reppoints(cfg: CN) -> None:
    # RepPoints (ICCV 2019), the pseudo-box baseline. Defaults are its published settings.
    cfg.MODEL.REPPOINTS = CN()
    node = cfg.MODEL.REPPOINTS
    node.NUM_CLASSES = 80
    # Levels of the backbone from fine to coarse, for example p3 (stride 8) to p7 (stride 128).
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Two towers of NUM_CONVS x (3x3 conv, NORM, ReLU), one for the classes and one for the points;
    # all levels share them. NORM as MODEL.CPRNET.NORM.
    node.NUM_CONVS = 3
    node.CONV_DIM = 256
    node.NORM = "GN"
    # Channels between a tower and its outputs.
    node.POINT_CONV_DIM = 256
    # As MODEL.CPRNET.PRIOR_PROB.
    node.PRIOR_PROB = 0.01
    # Points per location, the square of an odd number: the deformable convs read the feature there.
    node.NUM_POINTS = 9
    # From points to a box. "moment": mean +- standard deviation * exp(learned spread). "minmax":
    # the box around all points. "partial_minmax": around the first four.
    node.TRANSFORM = "moment"
    # Factors on two gradients: of the learned spread, and from stage 2 to the points of stage 1.
    node.MOMENT_MUL = 0.01
    node.GRADIENT_MUL = 0.1
    # An object belongs to the coarsest level of which sqrt(w h) is at least POINT_BASE_SCALE cells.
    # Box errors are measured in POINT_BASE_SCALE cells.
    node.POINT_BASE_SCALE = 4.0
    # Stage 1 learns an object at so many locations of its level, those nearest to its centre.
    node.INIT_POSITIVES = 1
    # Stage 2 and the classes learn it where the box of stage 1 has this IoU with it, and where that
    # IoU is the highest, if it is at least MIN_POSITIVE_IOU. Below NEGATIVE_IOU is background.
    node.POSITIVE_IOU = 0.5
    node.NEGATIVE_IOU = 0.4
    node.MIN_POSITIVE_IOU = 0.0
    # Class loss, weight 1.
    node.FOCAL_ALPHA = 0.25
    node.FOCAL_GAMMA = 2.0
    # Smooth-L1 (beta) of the corners of the boxes of both stages, and their weights.
    node.SMOOTH_L1_BETA = 1.0 / 9.0
    node.INIT_LOSS_WEIGHT = 0.5
    node.REFINE_LOSS_WEIGHT = 1.0
    # As MODEL.CPRNET.LOSS_NORMALIZER, for the number of positives of each stage.
    node.LOSS_NORMALIZER = "global"
    # As MODEL.CPRNET.IGNORE_AS_BACKGROUND.
    node.IGNORE_AS_BACKGROUND = False

    # Decoding.
    node.SCORE_THRESH = 0.05
    # Locations kept per level, by their best class, before NMS.
    node.PRE_NMS_TOPK = 1000
    # Boxes of a class with an IoU above this are one object.
    node.NMS_THRESH = 0.5
    # Boxes kept per image, all classes together.
    node.MAX_DETS = 100
    # True: boxes are cut off at the border of the image (official code), which moves their centres.
    # False: they stay as predicted.
    node.CLIP_BOXES = True


def _add_boxes(cfg: CN) -> None:
    # Box detectors (RetinaNet, GeneralizedRCNN, RepPoints) on a data set "points:..." learn squares
    # around the points, of this side in original px (pseudo-box baseline, Tables 1 and 3).
    cfg.MODEL.PSEUDO_BOX = CN()
    cfg.MODEL.PSEUDO_BOX.SIZE = 32.0
    # Of build_resnet_fpn_pyramid_backbone: levels above the highest of FPN.IN_FEATURES, by 3x3
    # convs of stride 2.
    cfg.MODEL.FPN.EXTRA_LEVELS = 0
    # Box detectors: COCO's box AP too, under "bbox". Point mAP, of the boxes' centres, is always
    # there.
    cfg.TEST.BOX_AP = False


def _add_training(cfg: CN) -> None:
    # Network px per original px. Above 0 it replaces MIN_SIZE and MAX_SIZE, in training and at
    # inference: objects keep their scale in a set whose images have many sizes.
    cfg.INPUT.SCALE = 0.0
    # "SGD", "Adam" or "AdamW". SOLVER.CLIP_GRADIENTS.CLIP_TYPE may also be "full_model": the norm
    # of all gradients together, as in the official code.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # The ResNet learns at this many times BASE_LR; neck and head learn at BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0


def _add_evaluation(cfg: CN) -> None:
    cfg.TEST.POINTS = CN()
    node = cfg.TEST.POINTS
    # Thresholds of the point-box distance, Eq. 12.
    node.TAUS = [0.5, 1.0, 2.0]
    # "coco" (small, medium, large) or "tiny" (tiny, tiny1, ..., reasonable).
    node.SIZE_RANGES = "coco"
    # Detections scored per image and class.
    node.MAX_DETS = 1000
    # "paper" (101 points, no envelope, as the published tables) or "coco" (with envelope).
    node.AP = "paper"
    # "true" (x + w / 2) or "official" (x + (w - 1) / 2).
    node.BOX_CENTRE = "true"
    # What a point near several boxes may take: "free", the nearest that no better point has taken
    # (official code), or "nearest", the nearest or none (paper).
    node.SEVERAL_BOXES = "free"
    # "skip": classes without ground truth are left out of the mean. "official": they count 0 or 1.
    node.ABSENT_CLASSES = "skip"
    # True: only iscrowd is ignored, as in the official code. False: ignore or iscrowd.
    node.PAPER_IGNORE = False


def _add_self_refinement(cfg: CN) -> None:
    # Self-refinement (baseline of Table 1): a click moves to the mean of the points that a
    # localizer predicts for it, weighted by score. The paper gives no settings; TOPK and
    # MAX_DISTANCE are those of a tool that was published with the official code for a while.
    cfg.TEST.SELF_REFINE = CN()
    node = cfg.TEST.SELF_REFINE
    # Predictions that are averaged per click: those with the best scores.
    node.TOPK = 16
    # Of these, ones farther from the click than this are dropped; in sides of a pseudo box,
    # MODEL.PSEUDO_BOX.SIZE.
    node.MAX_DISTANCE = 1.5
    # Scores must be above it. The localizer's own threshold comes first.
    node.SCORE_THRESH = 0.0
