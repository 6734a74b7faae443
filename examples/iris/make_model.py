"""How iris.onnx was made; run it only to make it again (pip install scikit-learn onnx).

Logistic regression on Fisher's iris data, written as the two operators it is: probabilities = softmax(x W + b). The first
dimension is open, so a batch of events becomes one run.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main():
    features, species = load_iris(return_X_y=True)
    classifier = LogisticRegression(max_iter=1000).fit(features, species)
    weights = numpy_helper.from_array(classifier.coef_.T.astype(np.float32), "weights")
    bias = numpy_helper.from_array(classifier.intercept_.astype(np.float32), "bias")
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["measures", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "iris",
        [helper.make_tensor_value_info("measures", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [weights, bias],
    )
    # Old versions on purpose: every onnxruntime since 1.14 loads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, Path(__file__).with_name("iris.onnx"))
    print(f"right on {classifier.score(features, species):.1%} of the 150 flowers it was fitted to")


if __name__ == "__main__":
    main()
