import torch

from kneegrade.anatomy.landmark_networks import coarse_landmark_network


@torch.inference_mode()
def test_decoding_some_images_of_a_batch_gives_their_maps():
    torch.manual_seed(1)
    network, images = coarse_landmark_network().eval(), torch.rand(4, 1, 64, 64)
    maps, scalars = network(images)
    pyramid, same_scalars = network.encode(images)
    torch.testing.assert_close(network.decode([features[[3, 1]] for features in pyramid]), maps[[3, 1]])
    torch.testing.assert_close(same_scalars, scalars)
