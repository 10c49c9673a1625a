"""The 74-point knee landmark scheme: index ranges of bones and joint surfaces, and landmarks per compartment.

Indices are 0-based. In the normalised orientation (lateral on the left of the image) each bone is numbered from lateral
to medial: femur 0–36, with the intercondylar notch at 18, and tibia 37–73, with the valley between the tibial spines at
55. The joint surfaces (articular landmarks) are 12–24 on the femur and 47–63 on the tibia.

The paper does not list the landmarks of its compartments. Here each bone is split at its middle landmark (notch or
valley), which belongs to both sides.
"""

NUM_LANDMARKS = 74
FEMUR = range(37)
TIBIA = range(37, 74)
FEMUR_NOTCH = 18
TIBIA_VALLEY = 55
FEMUR_ARTICULAR = range(12, 25)
TIBIA_ARTICULAR = range(47, 64)
ARTICULAR: tuple[int, ...] = (*FEMUR_ARTICULAR, *TIBIA_ARTICULAR)
TIBIA_PLATEAU_LATERAL = 47
TIBIA_PLATEAU_MEDIAL = 63

# Each bone without the ends of its shaft, which tight crops do not show. The centroids of the two bodies define which
# direction is distal; centroids of the joint surfaces alone would be ambiguous in a closed joint.
FEMUR_BODY = range(4, 32)
TIBIA_BODY = range(41, 70)

COMPARTMENTS: dict[str, tuple[int, ...]] = {
    "all": tuple(range(NUM_LANDMARKS)),
    "FL": tuple(range(19)),
    "FM": tuple(range(18, 37)),
    "TL": tuple(range(37, 56)),
    "TM": tuple(range(55, 74)),
}
