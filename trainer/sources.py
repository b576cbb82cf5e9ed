"""Sources of the recipes' fields: the papers' words, others' code, or our choice. Each table is a Recipe.sources."""

from __future__ import annotations

VGG = dict.fromkeys(
    ("iterations", "batch", "learning_rate", "lr_drops", "momentum", "weight_decay", "mirror"), "VGG section 3.1"
) | {
    "phases": "S: VGG section 3.1; dropout 0.5 throughout: the same",
    "epochs": "74: VGG section 3.1; the iterations decide",
    "schedule": "VGG section 3.1: divided by 10 where the accuracy on the validation set stalls",
    "patience": "our choice: the paper does not say when it stalls; one validation an epoch",
    "start": "VGG section 3.1; --set start=glorot is its authors' later advice, which needs no init",
    "start_sigma": "our choice: AlexNet's 0.01; a variance of 10^-2, as the paper has it, means scores near 4e7",
    "init": "VGG section 3.1: conv1_1, conv2_1, conv3_1, conv3_2 and the last three layers of A, by name",
    "color_sigma": "AlexNet section 4.1, which VGG section 3.1 refers to",
    "input_std": "VGG section 2.1: nothing but the mean is taken off",
    "test_short_px": "VGG section 4.1: Q = S, or the mean of the range",
}
SHALLOW = {"init": "VGG section 3.1: none, it is shallow enough"}
FINE = {
    "start": "unused: every layer comes from init",
    "start_sigma": "unused: every layer comes from init",
    "iterations": "our choice: at most those of S = 256, the stalls decide; the paper is silent",
}
VGG_384 = FINE | {"init": "VGG section 3.1: the net of S = 256, all layers"}
VGG_JITTER = FINE | {
    "init": "VGG section 3.1: the net of S = 384, all layers are fine-tuned",
    "learning_rate": "our choice: that of S = 384; the paper is silent",
}
GOOGLENET = dict.fromkeys(
    ("schedule", "lr_factor", "lr_every_epochs", "momentum", "crop", "area", "aspect"), "GoogLeNet section 6"
) | {
    "phases": "one: dropout 40 % throughout (GoogLeNet Table 1); S is unused by crops of an area",
    "epochs": "bvlc_googlenet: 10,000,000 iterations of 32; the paper is silent",
    "batch": "bvlc_googlenet; the paper is silent",
    "learning_rate": "bvlc_googlenet; the paper is silent",
    "weight_decay": "bvlc_googlenet; the paper is silent",
    "start": "our choice: mini-googlenet's; the paper is silent, bvlc_googlenet has xavier with biases of 0.2",
    "input_std": "our choice: mini-googlenet's; goes with start=he",
    "average": "GoogLeNet section 6: Polyak and Juditsky's averaging",
    "average_decay": "tensorflow/models' Inception; the paper is silent, and 1 is Polyak's own plain mean",
    "interpolation": "GoogLeNet section 6: bilinear, area, nearest and cubic, each as likely",
    "photometric": "GoogLeNet section 6: Howard's",
    "color_sigma": "GoogLeNet section 6 has Howard's distortions in its place",
    "test_short_px": "our choice: the smallest of the four scales of section 7",
}
BOX = {
    "task": "VGG appendix A: one box for all classes (SCR), or one for each (PCR)",
    "init": "VGG appendix A: the classification net of the same S, all but the last layer",
    "start": "our choice for the last layer, as for classification",
    "learning_rate": "VGG appendix A",
    "phases": "VGG appendix A: a fixed S",
    "train_layers": "VGG appendix A, Table 8: all layers is better than --set train_layers=fully-connected",
    "iterations": "our choice: at most those of the classification net; the paper is silent",
}
MINI = {
    "input_std": "our choice: with start=he, and without batch norm, inputs near 1 train at higher rates",
    "schedule": "our choice: a run of minutes has no time to see a plateau",
}
MINI_384 = {
    # a digit fills 60 to 85 % of the shorter side
    "phases": "our choice: S = 88 for 384, where a crop still holds a digit; crop_px / 224 would give 110",
}
MINI_JITTER = {
    "phases": "our choice: S in [72; 120] for [256; 512], around the fixed 88",
}
MINI_BOX = {
    "phases": "our choice: S = 80, where a crop of 64 holds most of a digit; no dropout, its noise moves boxes",
    "learning_rate": "our choice: the classification net's, twice that for PCR, since the run is short",
    "start_sigma": "our choice: with He's for the last layer PCR's classes pull the layers below apart at first",
}
MINI_GOOGLENET = {
    "input_std": "our choice: with 64 the scores begin so large that some seeds hardly leave chance",
    "weight_decay": "bvlc_googlenet; the paper is silent",
}
FINE_TUNE = dict.fromkeys(
    ("epochs", "batch", "phases", "stop_after", "keep"),
    "our choice: for some hundred images of a few classes; the papers do not fine-tune on other classes",
) | {
    "learning_rate": "our choice; of the last layer alone it is for features of a norm of 10, and scaled to theirs",
    "net": "of the weights, with their widths and preprocessing (width, fc_width, exif, input_std are theirs)",
    "loaded_rate": "our choice: a tenth, as VGG's section 3.1 takes a tenth of the rate to go on at another scale",
    "start": "our choice: AlexNet's 0.01, of the last layer where the classes are others",
    "schedule": "our choice: a run of minutes has no time to see a plateau",
    "norms": "our choice: a batch of a few photographs has poorer statistics than ImageNet",
    "feature_draws": "our choice: on a CPU the features of photographs take most of the time",
    "momentum": "VGG section 3.1",
    "weight_decay": "VGG section 3.1; bvlc_googlenet for GoogLeNet",
    "color_sigma": "AlexNet section 4.1, with ImageNet's colours",
}
MINI_FINE_TUNE = {
    "phases": "our choice: 9/8 to 3/2 of a crop, around the fixed scale of the miniature",
}
RCNN = "R-CNN (Girshick et al. 2014), section 2.3 and the report on ILSVRC2013"
REGIONS = {
    "net": "of the weights, with their widths and preprocessing (width, fc_width, exif, input_std are theirs)",
    "task": "GoogLeNet section 8: regions are classified, as in R-CNN; softmax with background is our reading",
    "sampling": f"{RCNN}: 32 regions of objects and 96 of background",
    "batch": RCNN,
    "learning_rate": RCNN,
    "loaded_rate": f"{RCNN}: one rate for all layers",
    "iterations": f"{RCNN}: 50,000 for ILSVRC; GoogLeNet's section 8 is silent",
    "schedule": "our choice; R-CNN drops the rate to a tenth after 20,000 iterations",
    "momentum": RCNN,
    "weight_decay": RCNN,
    "start": "AlexNet's 0.01, of the last layer",
    "phases": "S is the crop: a region is warped to it",
    "test_short_px": "S is the crop: a region is warped to it",
    "color_sigma": f"{RCNN}: regions are mirrored, and nothing else",
}
MINI_REGIONS = dict.fromkeys(
    ("epochs", "learning_rate", "loaded_rate", "iterations", "start"), "our choice: for the miniature, by experiment"
)
MULTIBOX_PAPER = "MultiBox (Erhan et al. 2014)"
MULTIBOX = {
    "task": "GoogLeNet section 8: MultiBox proposals beside those of selective search",
    "boxes": "GoogLeNet section 8: 200 proposals",
    "box_weight": f"{MULTIBOX_PAPER}: alpha = 0.3",
    "area": "our choice: a crop of less shows few objects whole; the paper does not say",
    "learning_rate": "our choice: a tenth of GoogLeNet's, whose layers it goes on from",
    "epochs": "our choice",
    "crop": "GoogLeNet section 6; of an object that a crop cuts, the part is learnt of which half is shown",
}
MINI_MULTIBOX = {
    "box_weight": "found by experiment: with less, boxes drift from their priors while confidences are learnt",
    "learning_rate": "found by experiment: at 0.005, with this box_weight, a run learns nothing",
}
