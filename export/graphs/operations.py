"""Allowlist of operations in an imported SavedModel: only pure computation, no side effects outside the graph.

A SavedModel is a program. Its operations can write files, run Python, open connections or end the process, both at load
and at call time, here and again in the model server. So it is inspected before any of it runs, against an allowlist: an
unknown operation is rejected.

Knows the SavedModel format. Runs nothing.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from export.errors import UnsupportedModel

# Arithmetic, arrays and layers; control flow; lists; variables and in-memory tables; random numbers. All of them work
# on tensors and on the model's own memory. Not allowed are, among others, files (WriteFile, SaveV2, ReadFile), output
# (PrintV2 writes to files, too), Python (PyFunc), networks, datasets, queues, devices and `Abort`.
_COMPUTING_NAMES = """
Abs Acos Acosh Add AddN AddV2 All Angle Any ApproximateEqual ArgMax ArgMin AsString Asin Asinh Assert Assign AssignAdd
AssignAddVariableOp AssignSub AssignSubVariableOp AssignVariableOp Atan Atan2 Atanh AvgPool AvgPoolGrad BatchMatMul
BatchMatMulV2 BatchMatMulV3 BatchToSpace BatchToSpaceND BesselI0e BesselI1e Betainc BiasAdd BiasAddGrad Bincount
Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize Case Cast Ceil
CheckNumerics ClipByValue Complex ComplexAbs Concat ConcatOffset ConcatV2 Conj Const Conv2D Conv2DBackpropFilter
Conv2DBackpropInput Conv3D Cos Cosh Cross CudnnRNN CudnnRNNBackprop CudnnRNNBackpropV2 CudnnRNNBackpropV3
CudnnRNNCanonicalToParams CudnnRNNCanonicalToParamsV2 CudnnRNNParamsSize CudnnRNNV2 CudnnRNNV3 Cumprod Cumsum
CumulativeLogsumexp DenseBincount DepthToSpace DepthwiseConv2dNative Dequantize DestroyResourceOp DeviceIndex Diag
DiagPart Digamma DisableCopyOnRead Div DivNoNan DynamicPartition DynamicStitch Einsum Elu EluGrad Empty
EmptyTensorList EnsureShape Enter Equal Erf Erfc Erfinv Exit Exp ExpandDims Expm1 FakeParam FakeQuantWithMinMaxArgs
FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill Floor FloorDiv FloorMod For FusedBatchNorm
FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual HashTable HashTableV2 Identity
IdentityN If Igamma Igammac Imag InTopK InTopKV2 InitializeTable InitializeTableV2 Inv InvertPermutation IsFinite
IsInf IsNan IsVariableInitialized L2Loss LRN LeakyRelu LeakyReluGrad LeftShift Less LessEqual Lgamma LinSpace Log
Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LookupTableExport LookupTableExportV2 LookupTableFind
LookupTableFindV2 LookupTableImport LookupTableImportV2 LookupTableInsert LookupTableInsertV2 LookupTableSize
LookupTableSizeV2 LoopCond MatMul MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3
MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 Max MaxPool MaxPoolV2 Maximum Mean Merge Min
Minimum MirrorPad Mod Mul MulNoNan Multinomial MutableHashTable MutableHashTableV2 Ndtri Neg NextAfter NextIteration
NoOp NotEqual OneHot OnesLike OptionalFromValue OptionalGetValue OptionalHasValue OptionalNone Pack Pad PadV2
ParallelConcat ParameterizedTruncatedNormal PartitionedCall Placeholder PlaceholderWithDefault Polygamma Pow
PreventGradient Prod QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
QuantizeV2 RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor
RaggedTensorToVariant RandomGamma RandomPoissonV2 RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt
Range Rank ReadVariableOp Real RealDiv Reciprocal RefEnter RefIdentity RefMerge RefSwitch Relu Relu6 Relu6Grad
ReluGrad Reshape ResourceGather ResourceGatherNd ResourceScatterAdd ResourceScatterUpdate ResourceStridedSliceAssign
Reverse ReverseSequence ReverseV2 RightShift Rint RngReadAndSkip RngSkip Roll Round Rsqrt RsqrtGrad ScatterNd
SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Select SelectV2 Selu SeluGrad Shape ShapeN Sigmoid
SigmoidGrad Sign Sin Sinh Size Slice Snapshot Softmax Softplus SoftplusGrad Softsign SoftsignGrad SpaceToBatch
SpaceToBatchND SpaceToDepth SparseFillEmptyRows SparseReorder SparseReshape SparseSegmentMean SparseSegmentSum
SparseTensorDenseMatMul SparseToDense Split SplitV Sqrt SqrtGrad Square SquaredDifference Squeeze
StatefulPartitionedCall StatefulRandomBinomial StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform
StatefulUniformFullInt StatefulUniformInt StatelessCase StatelessIf StatelessMultinomial StatelessRandomGetAlg
StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessShuffle StatelessTruncatedNormal
StatelessTruncatedNormalV2 StatelessWhile StaticRegexFullMatch StaticRegexReplace StopGradient StridedSlice
StridedSliceGrad StringFormat StringJoin StringLength StringLower StringToHashBucketFast StringToNumber Sub Sum Switch
Tan Tanh TanhGrad TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3
TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3 TensorListConcat TensorListConcatLists
TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
TensorListPopBack TensorListPushBack TensorListPushBackBatch TensorListReserve TensorListResize TensorListScatter
TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack
TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Tile TopK TopKV2 Transpose
TruncateDiv TruncateMod TruncatedNormal Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex
UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum VarHandleOp VarIsInitializedOp Variable
VariableShape VariableV2 Where While Xdivy Xlog1py Xlogy ZerosLike Zeta
"""
_COMPUTING = frozenset(_COMPUTING_NAMES.split())
# What the weights are read by. The loader runs it on the model's own files.
_RESTORING = _COMPUTING | {"RestoreV2"}
# Operations that save a SavedModel. Every one contains them, so they are allowed where nothing calls them.
_SAVING = _RESTORING | {"MergeV2Checkpoints", "SaveV2", "ShardedFilename"}
# Maximum number of operations in an error message.
_SHOWN = 3


def require_harmless(path: Path) -> None:
    """Check every graph and function of a SavedModel without running any of it.

    Raises:
        UnsupportedModel: an operation is not allowed, or the model needs an asset file.
        OSError: the SavedModel cannot be read.
    """
    # The loader's own parser, so that the same content is checked and loaded.
    for meta_graph in tf.__internal__.saved_model.parse_saved_model(str(path)).meta_graphs:
        if meta_graph.asset_file_def:
            filename = meta_graph.asset_file_def[0].filename
            raise UnsupportedModel(
                f"{path}: it needs the file {filename!r} beside its weights; such models are not served"
            )
        _Graph(path, meta_graph).require_harmless()


class _Graph:
    """A graph with its function library."""

    def __init__(self, path: Path, meta_graph: Any) -> None:
        self._path, self._meta_graph = path, meta_graph
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}

    def require_harmless(self) -> None:
        restored = self._reachable([self._meta_graph.saver_def.restore_op_name])
        run = self._reachable(self._roots(), self._function_roots())
        for nodes, allowed in ((run, _COMPUTING), (restored, _RESTORING), (self._all_nodes(), _SAVING)):
            refused = {where: node.op for where, node in nodes if node.op not in allowed}
            if refused:
                raise UnsupportedModel(f"{self._path}: {_refusal(refused)}")

    def _roots(self) -> Iterator[str]:
        """Yield the names of operations and tensors that are run at load or call time."""
        for signature in self._meta_graph.signature_def.values():
            for tensor in (*signature.inputs.values(), *signature.outputs.values()):
                yield from (tensor.name, *(part.name for part in tensor.composite_tensor.components))
                yield from (tensor.coo_sparse.values_tensor_name, tensor.coo_sparse.indices_tensor_name)
                yield tensor.coo_sparse.dense_shape_tensor_name
        for collection in self._meta_graph.collection_def.values():
            yield from collection.node_list.value

    def _function_roots(self) -> Iterator[str]:
        """Yield the names of the functions of the loaded object."""
        objects = self._meta_graph.object_graph_def
        yield from objects.concrete_functions
        for node in objects.nodes:
            yield from (*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name)
        for gradient in self._meta_graph.graph_def.library.gradient:
            yield gradient.gradient_func
        for gradient in self._meta_graph.graph_def.library.registered_gradients:
            yield gradient.gradient_func

    def _all_nodes(self) -> Iterator[tuple[str, Any]]:
        yield from ((f"operation {name!r}", node) for name, node in self._nodes.items())
        for name, function in self._functions.items():
            yield from _nodes_of(name, function)

    def _reachable(self, tensors: Iterable[str], functions: Iterable[str] = ()) -> list[tuple[str, Any]]:
        """Return all nodes, with their locations, that these tensors, operations and functions depend on."""
        reachable, open_nodes, seen = list[tuple[str, Any]](), list(map(_operation, tensors)), set[str]()
        open_functions, seen_functions = list(functions), set[str]()
        while open_nodes:
            name = open_nodes.pop()
            node = self._nodes.get(name)
            if node is not None and name not in seen:
                seen.add(name)
                reachable.append((f"operation {name!r}", node))
                open_nodes += map(_operation, node.input)
                open_functions += _called(node)
        while open_functions:
            name = open_functions.pop()
            function = self._functions.get(name)
            if function is not None and name not in seen_functions:
                seen_functions.add(name)
                for where, node in _nodes_of(name, function):
                    reachable.append((where, node))
                    open_functions += _called(node)
        return reachable


def _nodes_of(name: str, function: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f"operation {node.name!r} of function {name!r}", node) for node in function.node_def)


def _operation(tensor: str) -> str:
    """Return the name of the operation that outputs a tensor or control input."""
    return tensor.removeprefix("^").partition(":")[0]


def _called(node: Any) -> Iterator[str]:
    """Yield the functions in a node's attributes. A node whose type is a function name is not on the allowlist."""
    for value in node.attr.values():
        yield from (function.name for function in (value.func, *value.list.func) if function.name)


def _refusal(refused: dict[str, str]) -> str:
    shown = "; ".join(f"{op} ({where})" for where, op in list(refused.items())[:_SHOWN])
    more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    return (
        f"a SavedModel is a program, and only operations that compute are served; this one has {shown}{more}, so it "
        "was not run"
    )
