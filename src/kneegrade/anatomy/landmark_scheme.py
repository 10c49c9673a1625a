"""The 74-point knee scheme as data: which index is where, and which landmarks each grade reads.

0-based, each bone running lateral → medial in the normalised orientation (lateral on the image's left):
femur 0–36 with the intercondylar notch at 18, tibia 37–73 with the valley between the spines at 55. The articular
parts are 12–24 and 47–63. The paper does not list its compartments; ours split each bone at its middle point, which
both sides share.
"""

NUM_LANDMARKS = 74
FEMUR = range(37)
TIBIA = range(37, 74)
FEMUR_NOTCH = 18
TIBIA_VALLEY = 55
FEMUR_ARTICULAR = range(12, 25)
TIBIA_ARTICULAR = range(47, 64)
# Most of each bone, without the shafts' ends, which tight crops lack: tells up from down even in a closed joint.
FEMUR_BODY = range(4, 32)
TIBIA_BODY = range(41, 70)
ARTICULAR: tuple[int, ...] = (*FEMUR_ARTICULAR, *TIBIA_ARTICULAR)
TIBIA_PLATEAU_LATERAL = 47
TIBIA_PLATEAU_MEDIAL = 63
SHAFT_ENDS: tuple[int, ...] = (*range(4), *range(32, 41), *range(70, 74))  # outside most crops of the joint alone

COMPARTMENTS: dict[str, tuple[int, ...]] = {
    "all": tuple(range(NUM_LANDMARKS)),
    "FL": tuple(range(19)),
    "FM": tuple(range(18, 37)),
    "TL": tuple(range(37, 56)),
    "TM": tuple(range(55, 74)),
}
