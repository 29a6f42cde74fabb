"""Measurements: what they are of a picture, and that guidance by them finds pictures that agree."""
import numpy as np
import pytest
import torch
from PIL import Image

from guided_sample.guides.measurements import blur, colour, downsample, inpaint
from guided_sample.guides.through import pushed, tfg
from guided_sample.loaders.measurement import load_measurement
from guided_sample.model import Guide, Look, Prediction, labelled
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.datasets.images import as_array, to_x_0
from noisy_clf.datasets.preprocessing import centre_crop
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.oracles import Mixture
from tests.seam import last, normal_noise, run

STEP = steps("10", NoiseSchedule.named("linear", 1000))[4]
PICTURE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
LEFT = torch.zeros(8, 8, dtype=torch.bool)
LEFT[:, :4] = True
ALL = {"inpaint": inpaint(PICTURE, LEFT), "blur": blur(PICTURE, 1.5), "downsample": downsample(PICTURE, 4),
       "colour": colour(PICTURE.mean(dim=(1, 2)))}


def at(x0_hat, log_density):
    """(the log-density [B] where x0_hat is this, its gradient)."""
    x0_hat = x0_hat.clone().requires_grad_()
    density = log_density(Look(lambda *_: Prediction(x0_hat, 0.0), x0_hat.detach(), STEP))
    return density.detach(), torch.autograd.grad(density.sum(), x0_hat)[0]


def images(B=3, seed=1):
    return torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("log_density", ALL.values(), ids=ALL)
def test_the_picture_itself_agrees_and_the_gradient_there_is_0_and_no_nan(log_density):
    density, gradient = at(PICTURE.expand(2, 3, 8, 8), log_density)
    assert density.abs().max() < 1e-5 and gradient.isfinite().all()
    density, gradient = at(torch.zeros(2, 3, 8, 8), colour(torch.zeros(3)))
    assert torch.equal(density, torch.zeros(2)) and torch.equal(gradient, torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("log_density", ALL.values(), ids=ALL)
def test_a_batch_of_3_is_3_singles_and_each_may_have_its_own_picture(log_density):
    density, gradient = at(images(), log_density)
    for i in range(3):
        alone, slope = at(images()[i:i + 1], log_density)
        torch.testing.assert_close(density[i:i + 1], alone)
        torch.testing.assert_close(gradient[i:i + 1], slope)
    own, pictures = at(images(), downsample(images(seed=2), 2))[0], images(seed=2)
    torch.testing.assert_close(own, torch.cat([at(images()[i:i + 1], downsample(pictures[i], 2))[0] for i in range(3)]))


def test_inpaint_sees_what_the_mask_marks_alone():
    x0_hat = images()
    density, gradient = at(x0_hat, ALL["inpaint"])
    off = (PICTURE - x0_hat)[..., :4]
    torch.testing.assert_close(density, -off.square().sum(dim=(1, 2, 3)).sqrt())
    assert gradient[..., 4:].eq(0).all()
    torch.testing.assert_close(gradient[..., :4], off / off.flatten(1).norm(dim=1).view(3, 1, 1, 1))


def test_downsample_sees_the_means_of_blocks():
    blocks = (PICTURE - images()).reshape(3, 3, 2, 4, 2, 4).mean(dim=(3, 5))
    torch.testing.assert_close(at(images(), ALL["downsample"])[0], -blocks.flatten(1).norm(dim=1))
    small = PICTURE.reshape(3, 2, 4, 2, 4).mean(dim=(2, 4))
    torch.testing.assert_close(at(images(), downsample(small, 4, given=True))[0], -blocks.flatten(1).norm(dim=1))


def test_blur_is_gaussian_and_keeps_the_mean_of_a_line_of_one_value():
    point, flat = torch.zeros(1, 21, 21), torch.ones(1, 21, 21)
    point[0, 10, 10] = 1
    place = torch.arange(21.0) - 10
    line = torch.exp(-place.square() / (2 * 1.5 ** 2))
    expected = line[:, None] * line / line.sum() ** 2
    nothing = torch.zeros(1, 1, 21, 21)
    # of x0_hat = 0, A(x0_hat) is 0, so that the norm is that of A(picture)
    torch.testing.assert_close(at(nothing, blur(point, 1.5))[0], -expected.norm()[None])
    torch.testing.assert_close(at(nothing, blur(flat, 4.0))[0], torch.tensor([-21.0]))
    torch.testing.assert_close(at(point[None], blur(expected[None], 1.5, given=True))[0], torch.zeros(1), rtol=0, atol=1e-6)


def test_colour_sees_the_mean_of_all_pixels():
    torch.testing.assert_close(at(images(), colour(torch.tensor([0.5, 0.0, -1.0])))[0],
                               -(torch.tensor([0.5, 0.0, -1.0]) - images().mean(dim=(2, 3))).norm(dim=1))


def test_dps_draws_pictures_that_agree():
    """Of independent pixels, the known half comes out as it is given, and the other as it was."""
    schedule = NoiseSchedule.named("linear", 1000)
    model = labelled(Mixture(torch.zeros(1, 3, 8, 8), 0.5, schedule).denoiser(), None)
    x_0 = last(run(ddpm, tfg(model, Guide(inpaint(PICTURE, LEFT)), rho=pushed(1.0)), steps("100", schedule),
                   normal_noise((16, 3, 8, 8))))
    off = x_0 - PICTURE
    assert off[..., :4].square().mean().sqrt() < 0.1 < 0.4 < x_0[..., 4:].std() < 0.6
    assert off[..., 4:].square().mean().sqrt() > 0.5


@pytest.mark.parametrize("make, message", [
    (lambda: inpaint(PICTURE, ~LEFT & LEFT), r"the mask \[8, 8\] marks nothing of the picture \[3, 8, 8\]"),
    (lambda: inpaint(PICTURE, torch.ones(4, 4, dtype=torch.bool)), r"the mask \[4, 4\] marks nothing"),
    (lambda: blur(PICTURE, 0.0), "a sigma of 0 blurs nothing; give one above 0"),
    (lambda: blur(PICTURE, float("nan")), "a sigma of nan blurs nothing"),
    (lambda: downsample(PICTURE, 3), "8 x 8 pixels cannot be made 3 times fewer a side; give a factor that divides both"),
    (lambda: downsample(PICTURE, 0), "8 x 8 pixels cannot be made 0 times fewer"),
    (lambda: at(images(), downsample(PICTURE[:1], 4)), r"of the picture is shaped \[1, 2, 2\], of the samples \[3, 3, 2, 2\]"),
    (lambda: at(images(), blur(PICTURE[:, :4], 1.0)), r"of the picture is shaped \[3, 4, 8\]"),
    (lambda: at(images(), colour(torch.zeros(1))), r"of the picture is shaped \[1, 1, 1\]"),
    (lambda: at(images(), downsample(images(2), 4)), r"shaped \[2, 3, 2, 2\], of the samples \[3, 3, 2, 2\]; give a picture"),
])
def test_what_cannot_be_measured_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


# from files


def photo(width=24, height=12, name="photo.png"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(name)
    return Image.fromarray(pixels)


def half_white(width=24, height=12, name="mask.png", white=255):
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, :width // 2] = white
    Image.fromarray(pixels).save(name)


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("kind, settings, make", [
    ("inpaint", {"mask": "mask.png"}, lambda picture: inpaint(picture, LEFT)),
    ("blur", {"sigma": 1.5}, lambda picture: blur(picture, 1.5)),
    ("downsample", {"factor": 4}, lambda picture: downsample(picture, 4))], ids=["inpaint", "blur", "downsample"])
def test_a_picture_in_a_file_is_cut_to_size_as_trainings_are(C, kind, settings, make):
    picture = centre_crop(photo(), 8)
    half_white()
    x_0 = to_x_0(torch.tensor(as_array(picture if C == 3 else picture.convert("L"))))
    found = load_measurement(kind, "photo.png", settings, (C, 8, 8))
    torch.testing.assert_close(at(images()[:, :C], found)[0], at(images()[:, :C], make(x_0))[0])


def test_a_small_picture_is_what_downsample_shall_find():
    small = to_x_0(torch.tensor(as_array(photo(2, 2))))
    found = load_measurement("downsample", "photo.png", {"factor": 4}, (3, 8, 8))
    torch.testing.assert_close(at(images(), found)[0], at(images(), downsample(small, 4, given=True))[0])


@pytest.mark.parametrize("text, rgb", [("#ff8000", [1.0, 128 / 127.5 - 1, -1.0]), ("#FF8000", [1.0, 128 / 127.5 - 1, -1.0]),
                                       ("0.2:0.1:-1", [0.2, 0.1, -1.0]), ("-0.3", [-0.3])])
def test_a_colour_in_words(text, rgb):
    found = load_measurement("colour", text, {}, (len(rgb), 8, 8))
    x0_hat = images()[:, :len(rgb)]
    torch.testing.assert_close(at(x0_hat, found)[0], at(x0_hat, colour(torch.tensor(rgb)))[0])


@pytest.mark.parametrize("kind, source, settings, message", [
    ("blur", "none.png", {"sigma": 1.0}, r"none.png cannot be read as a picture \(No such file or directory\); give another"),
    ("blur", "text.png", {"sigma": 1.0}, r"text.png cannot be read as a picture \(it is not a whole picture"),
    ("blur", "photo.png", {}, "the guide blur:photo.png needs a sigma; write blur:photo.png,sigma=..."),
    ("blur", "photo.png", {"sigma": -1.0}, "a sigma of -1 blurs nothing"),
    ("inpaint", "photo.png", {}, "needs a mask; write inpaint:photo.png,mask=..."),
    ("inpaint", "photo.png", {"mask": "text.png"}, "text.png cannot be read as a picture"),
    ("inpaint", "photo.png", {"mask": "other.png"}, "the mask other.png has 8 x 8 pixels and the picture photo.png 24 x 12;"),
    ("inpaint", "photo.png", {"mask": "black.png"}, "marks nothing of the picture"),
    ("downsample", "photo.png", {"factor": 3}, "8 x 8 pixels cannot be made 3 times fewer a side"),
    ("downsample", "photo.png", {"factor": 0}, "8 x 8 pixels cannot be made 0 times fewer a side"),
    ("colour", "red", {}, "the colour 'red' is none of samples of 3 channels; write #ff8800, or a number from -1 to 1"),
    ("colour", "#ff88", {}, "the colour '#ff88' is none"), ("colour", "0.2:0.3", {}, "the colour '0.2:0.3' is none"),
    ("colour", "0.2:0.3:1.5", {}, "is none of samples of 3 channels"), ("colour", "0.2:0.3:nan", {}, "is none of samples"),
])
def test_what_is_no_measurement_is_told_in_a_sentence(kind, source, settings, message):
    photo()
    half_white(8, 8, "other.png")
    half_white(name="black.png", white=100)
    with open("text.png", "w") as file:
        file.write("no picture")
    with pytest.raises(UserError, match=message):
        load_measurement(kind, source, settings, (3, 8, 8))


def test_a_colour_of_grey_samples_is_one_number():
    with pytest.raises(UserError, match="'#ff8800' is none of samples of 1 channel; write a number from -1 to 1 for each, as"):
        load_measurement("colour", "#ff8800", {}, (1, 8, 8))
