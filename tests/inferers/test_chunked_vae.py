import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from common.inferers.chunked_vae import ChunkedVAE
from common.inferers.spooled_map import ChannelStats, DiskMap, HaloReader, HostMap
from common.networks.maisi_vae import MaisiVAE


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = MaisiVAE(num_channels=[8, 8, 16], norm_num_groups=4, num_res_blocks=[1, 2, 1]).eval()
    for parameter in vae.parameters():  # biases and affine parameters must matter
        parameter.data += 0.02 * torch.randn_like(parameter)
    return vae


def ramp(*shape):
    """A volume whose statistics change along depth, as a body's do, so that per-chunk norms would show."""
    torch.manual_seed(1)
    depth = torch.linspace(0, 3, shape[2]).view(1, 1, -1, 1, 1)
    return torch.rand(shape) * depth + depth


CASES = [
    # shape, encode chunk, decode chunk
    ((1, 1, 16, 16, 16), 8, 2),
    ((1, 1, 13, 18, 11), 5, 2),  # odd sizes, chunks that do not divide
    ((2, 1, 12, 8, 8), 7, 1),  # batch of two
    ((1, 1, 9, 8, 12), 1, 1),
    ((1, 1, 5, 8, 8), 32, 8),  # depth below the chunk
    ((1, 1, 4, 4, 4), 2, 1),  # one latent voxel
    ((1, 1, 22, 8, 8), 4, 3),
]


@pytest.mark.parametrize("spool", ["host", "disk"])
@pytest.mark.parametrize(("shape", "encode_chunk", "decode_chunk"), CASES)
def test_equals_the_whole(vae, shape, encode_chunk, decode_chunk, spool, tmp_path):
    chunked = ChunkedVAE(vae, encode_chunk, decode_chunk, spool=spool, spool_dir=str(tmp_path))
    x = ramp(*shape)
    with torch.no_grad():
        z_mu, z_sigma = vae.encode(x)
        image = vae.decode(z_mu)
    found_mu, found_sigma = chunked.encode(x)
    torch.testing.assert_close(found_mu, z_mu, atol=1e-4, rtol=0)
    torch.testing.assert_close(found_sigma, z_sigma, atol=1e-4, rtol=0)
    torch.testing.assert_close(chunked.decode(z_mu), image, atol=1e-4, rtol=0)
    assert torch.equal(x, ramp(*shape)), "the caller's volume was changed"
    assert not list(tmp_path.iterdir()), "spool files are left"


def test_a_sliding_window_would_fail_this_tolerance(vae):
    x = ramp(1, 1, 16, 16, 16)
    with torch.no_grad():
        whole = vae.encode(x)[0]
        windows = torch.cat([vae.encode(part)[0] for part in x.split(8, dim=2)], dim=2)
    assert (whole - windows).abs().max() > 0.05


def test_plain_monai_network_with_its_own_splits(vae):
    torch.manual_seed(0)
    kwargs = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "num_res_blocks": [1, 2, 1], "latent_channels": 4}
    sizes = {"num_channels": [8, 8, 16], "attention_levels": [False] * 3, "norm_num_groups": 4}
    split = AutoencoderKlMaisi(**kwargs, **sizes, num_splits=2, dim_split=1)
    split.load_state_dict(vae.state_dict())
    x = ramp(1, 1, 8, 8, 8)
    assert torch.equal(ChunkedVAE(split, 4).encode(x)[0], ChunkedVAE(vae, 4).encode(x)[0])


def test_encode_volume_pads_and_decode_crops(vae):
    chunked = ChunkedVAE(vae, 4, 1)
    x = ramp(1, 1, 7, 9, 2)
    z_mu, _ = chunked.encode_volume(x)
    assert z_mu.shape == (1, 4, 2, 3, 1)
    padded = torch.nn.functional.pad(x, (0, 2, 0, 3, 0, 1), mode="replicate")
    assert torch.equal(z_mu, chunked.encode(padded)[0])
    assert chunked.decode(z_mu, shape=(7, 9, 2)).shape == x.shape
    with pytest.raises(ValueError, match=r"cannot crop an image of \(8, 12, 4\) to \(9, 9, 2\)"):
        chunked.decode(z_mu, shape=(9, 9, 2))


def test_half_precision_spool_is_close_and_needs_no_gradient(vae):
    x = ramp(1, 1, 8, 8, 8)
    z_mu, _ = ChunkedVAE(vae, 4, spool_dtype=torch.bfloat16, spool="disk").encode(x)
    assert not z_mu.requires_grad
    whole, _ = ChunkedVAE(vae, 4).encode(x)
    assert 0 < (z_mu - whole).abs().max() < 0.1


def test_autocast_follows_the_network(vae):
    x = ramp(1, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        whole = vae.encode(x)[0].float()
        found = ChunkedVAE(vae, 4).encode(x)[0]
    assert (found - whole).abs().max() < 0.1


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"with_encoder_nonlocal_attn": True}, "encoder.blocks.*without attention"),
        ({"attention_levels": [False, False, True]}, "SpatialAttentionBlock.*without attention"),
        ({"norm_float16": True}, "norm_float16"),
        ({"use_convtranspose": True}, "transposed convolution"),
    ],
)
def test_refuses_networks_it_cannot_chunk(kwargs, sentence):
    sizes = {"num_channels": [32, 32, 64], "norm_num_groups": 16, "num_res_blocks": [1, 1, 1]}
    with torch.device("meta"), pytest.raises(ValueError, match=sentence):
        ChunkedVAE(MaisiVAE(**sizes, **kwargs))


def test_refuses_bad_arguments(vae, tmp_path):
    with pytest.raises(ValueError, match="at least 1 slice"):
        ChunkedVAE(vae, encode_chunk=0)
    with pytest.raises(ValueError, match="'host' or 'disk'"):
        ChunkedVAE(vae, spool="tape")
    with pytest.raises(ValueError, match=r"sizes of at least 4, got \(1, 1, 3, 8, 8\)"):
        ChunkedVAE(vae).encode(torch.zeros(1, 1, 3, 8, 8))
    with pytest.raises(ValueError, match="expected latents"):
        ChunkedVAE(vae).decode(torch.zeros(4, 2, 2, 2))
    with pytest.raises(OSError, match="GB free, a feature map needs"):
        DiskMap((1, 64, 10**5, 512, 512), torch.float32, str(tmp_path))


def test_statistics_do_not_cancel():
    """A mean far above the spread defeats E[x^2] - E[x]^2 in float32."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 11, 5, 5, dtype=torch.float64) + 1000
    stats = ChannelStats()
    for part in x.float().split(4, dim=2):
        stats.update(part)
    mean, var = stats.per_group(3)
    groups = x.float().double().view(2, 3, -1)
    torch.testing.assert_close(mean, groups.mean(2), rtol=1e-7, atol=0)
    torch.testing.assert_close(var, groups.var(2, correction=0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_halo_reader_sees_the_original_while_it_is_overwritten(step):
    original = torch.arange(7.0).view(1, 1, 7, 1, 1)
    source = HostMap(original.clone())
    reader = HaloReader(source, 1, original)
    for start in range(0, 7, step):
        stop = min(start + step, 7)
        found = reader.read(start, stop).flatten().tolist()
        assert found == list(range(max(start - 1, 0), min(stop + 1, 7)))
        source.write(start, torch.full((1, 1, stop - start, 1, 1), -1.0))
