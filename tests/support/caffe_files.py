"""Caffe models written by Caffe's own conventions, from nets of ours: BGR, inner products, old or new messages.

Written from what Caffe's and BVLC's files look like, apart from the importer: only the message classes are shared,
whose field numbers an independent reader checks (test_export_from_caffe_reader.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf import text_format
from torch import nn

from export.caffe import caffe_pb2
from trainer.nets.googlenet import AUX_AFTER, GoogLeNet
from trainer.nets.lrn import LRN
from trainer.nets.zoo import Net

messages: Any = caffe_pb2
Generation = Literal["V1", "new"]

OLD = {
    "Convolution": "CONVOLUTION",
    "InnerProduct": "INNER_PRODUCT",
    "Pooling": "POOLING",
    "ReLU": "RELU",
    "LRN": "LRN",
    "Dropout": "DROPOUT",
    "Concat": "CONCAT",
    "Softmax": "SOFTMAX",
    "SoftmaxWithLoss": "SOFTMAX_LOSS",
}


class Writer:
    """A description and its weights in the making."""

    def __init__(self, generation: Generation, crop_px: int) -> None:
        self.generation, self.crop_px = generation, crop_px
        self.description, self.weights = messages.NetParameter(name="test"), messages.NetParameter(name="test")

    def layer(self, kind: str, name: str, bottoms: list[str], top: str, *blobs: Any, **parameters: Any) -> str:
        for net, with_blobs in ((self.description, False), (self.weights, True)):
            new = self.generation == "new"
            layer = (net.layer if new else net.layers).add(name=name, bottom=bottoms, top=[top])
            layer.type = kind if new else messages.V1LayerParameter.LayerType.Value(OLD[kind])
            for parameter, values in parameters.items():
                getattr(layer, parameter).SetInParent()
                for key, value in values.items():
                    if isinstance(value, list):
                        getattr(getattr(layer, parameter), key).extend(value)
                    else:
                        setattr(getattr(layer, parameter), key, value)
            for values in blobs if with_blobs else ():
                blob = layer.blobs.add(data=np.ascontiguousarray(values, "<f4").tobytes())
                if new:
                    blob.shape.dim.extend(values.shape)
                else:
                    sizes = (1,) * (4 - values.ndim) + values.shape
                    blob.num, blob.channels, blob.height, blob.width = sizes
        return top

    def conv(self, name: str, bottom: str, module: nn.Conv2d, *, bgr: bool = False) -> str:
        weight, bias = (tensor.detach().numpy() for tensor in (module.weight, module.bias))
        parameters = {
            "num_output": module.out_channels,
            "kernel_size": [module.kernel_size[0]],
            "pad": [module.padding[0]],
            "stride": [module.stride[0]],
        }
        weight = weight[:, ::-1] if bgr else weight
        top = self.layer("Convolution", name, [bottom], name, weight, bias, convolution_param=parameters)
        return top

    def relu(self, top: str) -> str:
        return self.layer("ReLU", f"relu_{top}", [top], top)

    def inner_product(self, name: str, bottom: str, module: nn.Conv2d | nn.Linear) -> str:
        """A convolution over its whole input: Caffe flattens channels, rows, columns."""
        weight, bias = (tensor.detach().numpy() for tensor in (module.weight, module.bias))
        flat = weight.reshape(len(weight), -1)
        parameters = {"num_output": len(flat)}
        return self.layer("InnerProduct", name, [bottom], name, flat, bias, inner_product_param=parameters)

    def pool(self, name: str, bottom: str, module: nn.MaxPool2d | nn.AvgPool2d) -> str:
        parameters = {
            "pool": int(isinstance(module, nn.AvgPool2d)),
            "kernel_size": module.kernel_size,
            "stride": module.stride,
            **({"pad": module.padding} if module.padding else {}),
        }
        if not getattr(module, "ceil_mode", True) and isinstance(module, nn.MaxPool2d) and not module.padding:
            parameters["round_mode"] = messages.PoolingParameter.FLOOR
        return self.layer("Pooling", name, [bottom], name, pooling_param=parameters)

    def lrn(self, name: str, bottom: str, module: LRN) -> str:
        parameters = {"local_size": module.n, "alpha": module.alpha, "beta": module.beta, "k": module.k}
        return self.layer("LRN", name, [bottom], name, lrn_param=parameters)

    def save(self, folder: Path) -> tuple[Path, Path]:
        """deploy.prototxt and weights.caffemodel."""
        sizes = "".join(f"input_dim: {size}\n" for size in (1, 3, self.crop_px, self.crop_px))
        head = f'name: "test"\ninput: "data"\n{sizes}'
        self.description.ClearField("name")
        paths = folder / "deploy.prototxt", folder / "weights.caffemodel"
        paths[0].write_text(head + text_format.MessageToString(self.description))
        paths[1].write_bytes(self.weights.SerializeToString())
        return paths


def write_vgg(net: Net, folder: Path, generation: Generation, crop_px: int) -> tuple[Path, Path]:
    """Layers and names of the VGG group's release: conv1_1, relu in place, fc6 an inner product, dropout, prob."""
    w, top = Writer(generation, crop_px), "data"
    for name, module in net.named_children():
        match module:
            case nn.Conv2d() if name.startswith("fc"):
                top = w.inner_product(name, top, module)
            case nn.Conv2d():
                top = w.conv(name, top, module, bgr=name == "conv1_1")
            case nn.ReLU():
                w.relu(top)
            case nn.MaxPool2d():
                top = w.pool(name, top, module)
            case LRN():
                top = w.lrn(name, top, module)
            case nn.Dropout():
                w.layer("Dropout", name, [top], top)
    w.layer("Softmax", "prob", [top], "prob")
    return w.save(folder)


def write_googlenet(net: GoogLeNet, folder: Path, generation: Generation, crop_px: int) -> tuple[Path, Path]:
    """Layers and names of bvlc_googlenet's deploy.prototxt; branches in the order of its concatenations.

    A net with auxiliary heads gets them where train_val.prototxt has them, each with its loss.
    """
    w = Writer(generation, crop_px)
    top = w.relu(w.conv("conv1/7x7_s2", "data", net.conv1, bgr=True))
    top = w.lrn("pool1/norm1", w.pool("pool1/3x3_s2", top, net.pool1), net.norm1)
    top = w.relu(w.conv("conv2/3x3_reduce", top, net.conv2_reduce))
    top = w.lrn("conv2/norm2", w.relu(w.conv("conv2/3x3", top, net.conv2)), net.norm2)
    top = w.pool("pool2/3x3_s2", top, net.pool2)
    for key, block in net.inception.items():
        name = f"inception_{key}"
        if key in net.pool_before:
            top = w.pool(f"pool{int(key[0]) - 1}/3x3_s2", top, net.pool_before[key])
        one = w.relu(w.conv(f"{name}/1x1", top, block.conv1x1))
        three = w.relu(w.conv(f"{name}/3x3_reduce", top, block.conv3x3_reduce))
        three = w.relu(w.conv(f"{name}/3x3", three, block.conv3x3))
        five = w.relu(w.conv(f"{name}/5x5_reduce", top, block.conv5x5_reduce))
        five = w.relu(w.conv(f"{name}/5x5", five, block.conv5x5))
        pool = w.pool(f"{name}/pool", top, block.pool)
        pool = w.relu(w.conv(f"{name}/pool_proj", pool, block.pool_proj))
        top = w.layer("Concat", f"{name}/output", [one, three, five, pool], f"{name}/output")
        if AUX_AFTER.get(key) in net.auxiliary:
            auxiliary_head(w, top, net.auxiliary[AUX_AFTER[key]], AUX_AFTER[key].replace("aux", "loss"))
    top = w.pool(f"pool5/{crop_px // 32}x{crop_px // 32}_s1", top, net.last_pool)
    w.layer("Dropout", "pool5/drop", [top], top)
    w.layer("Softmax", "prob", [w.inner_product("loss3/classifier", top, net.classifier)], "prob")
    return w.save(folder)


def auxiliary_head(w: Writer, top: str, head: Any, name: str) -> None:
    top = w.pool(f"{name}/ave_pool", top, nn.AvgPool2d(5, 3))
    top = w.relu(w.conv(f"{name}/conv", top, head.conv))
    top = w.relu(w.inner_product(f"{name}/fc", top, head.fc))
    w.layer("Dropout", f"{name}/drop_fc", [top], top)
    top = w.inner_product(f"{name}/classifier", top, head.classifier)
    w.layer("SoftmaxWithLoss", f"{name}/loss", [top, "label"], f"{name}/loss1")


def write_caffe(net: Net, folder: Path, generation: Generation, crop_px: int) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(net, GoogLeNet):
        return write_googlenet(net, folder, generation, crop_px)
    return write_vgg(net, folder, generation, crop_px)
