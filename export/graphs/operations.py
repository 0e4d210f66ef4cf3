"""Allowlist of operations in an imported SavedModel: only pure computation, no side effects outside the graph.

A SavedModel is a program. Its operations can write files, run Python, open connections or end the process, both at load
and at call time, here and in the model server. So it is checked against an allowlist before any of it runs; unknown
operations are rejected.
"""

import itertools
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import tensorflow as tf

from export.errors import UnsupportedModel

# Returns the functions and gradients of a GraphDef.
_definitions = attrgetter("library")

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
# Reads the weights. The loader runs it on the model's own files.
_RESTORING = _COMPUTING | {"RestoreV2"}
# Operations that save a SavedModel. Every SavedModel contains them, so they are allowed where nothing calls them.
_SAVING = _RESTORING | {"MergeV2Checkpoints", "SaveV2", "ShardedFilename"}
# Maximum number of operations in an error message.
_SHOWN = 3


def require_harmless(path: Path) -> None:
    """Check every graph and function of a SavedModel without running any of it.

    Raises:
        UnsupportedModel: an operation is not allowed, or the model needs an asset file.
        OSError: the SavedModel cannot be read.
    """
    # The loader's own parser: checks what will be loaded.
    for meta_graph in tf.__internal__.saved_model.parse_saved_model(str(path)).meta_graphs:
        if meta_graph.asset_file_def:
            filename = meta_graph.asset_file_def[0].filename
            raise UnsupportedModel(f"it needs the file {filename!r} beside its weights; such models are not served")
        graph = _Graph(meta_graph)
        loaded = graph.reachable([meta_graph.saver_def.restore_op_name], [])
        run = graph.reachable(_tensor_roots(meta_graph), _function_roots(meta_graph))
        for nodes, allowed in ((run, _COMPUTING), (loaded, _RESTORING), (graph.all_nodes(), _SAVING)):
            refused = [f"{node.op} ({where})" for where, node in nodes if node.op not in allowed]
            if refused:
                more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
                raise UnsupportedModel(
                    f"a SavedModel is a program, and only operations that compute are served; this one has "
                    f"{'; '.join(refused[:_SHOWN])}{more}, so it was not run"
                )


class _Graph:
    """The nodes of a graph and of the functions in its library, with their locations for messages."""

    def __init__(self, meta_graph: Any) -> None:
        self._nodes = {node.name: (f"operation {node.name!r}", node) for node in meta_graph.graph_def.node}
        self._functions = {
            function.signature.name: [
                (f"operation {node.name!r} of function {function.signature.name!r}", node) for node in function.node_def
            ]
            for function in _definitions(meta_graph.graph_def).function
        }

    def all_nodes(self) -> Iterator[tuple[str, Any]]:
        yield from self._nodes.values()
        yield from itertools.chain.from_iterable(self._functions.values())

    def reachable(self, tensors: Iterable[str], functions: Iterable[str]) -> list[tuple[str, Any]]:
        """Return all nodes, with their locations, that these tensors, operations and functions depend on."""
        found, seen = list[tuple[str, Any]](), set[tuple[str, bool]]()
        open_names = [*((_operation(name), False) for name in tensors), *((name, True) for name in functions)]
        while open_names:
            name, is_function = open_names.pop()
            if (name, is_function) in seen:
                continue
            seen.add((name, is_function))
            nodes = self._functions.get(name, []) if is_function else [self._nodes[name]] if name in self._nodes else []
            found += nodes
            for _, node in nodes:
                # The inputs of a function's nodes are in the function, all of whose nodes are here.
                open_names += [] if is_function else [(_operation(tensor), False) for tensor in node.input]
                open_names += [(called, True) for called in _called(node)]
        return found


def _tensor_roots(meta_graph: Any) -> Iterator[str]:
    """Yield the names of operations and tensors that are run at load or call time."""
    for signature in meta_graph.signature_def.values():
        for tensor in (*signature.inputs.values(), *signature.outputs.values()):
            yield from (tensor.name, *(part.name for part in tensor.composite_tensor.components))
            yield from (tensor.coo_sparse.values_tensor_name, tensor.coo_sparse.indices_tensor_name)
            yield tensor.coo_sparse.dense_shape_tensor_name
    for collection in meta_graph.collection_def.values():
        yield from collection.node_list.value


def _function_roots(meta_graph: Any) -> Iterator[str]:
    """Yield the names of the functions of the loaded object, and of gradients."""
    yield from meta_graph.object_graph_def.concrete_functions
    for node in meta_graph.object_graph_def.nodes:
        yield from (*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name)
    definitions = _definitions(meta_graph.graph_def)
    for gradient in (*definitions.gradient, *definitions.registered_gradients):
        yield gradient.gradient_func


def _operation(tensor: str) -> str:
    """Return the name of the operation that outputs a tensor or control input."""
    return tensor.removeprefix("^").partition(":")[0]


def _called(node: Any) -> Iterator[str]:
    """Yield the functions in a node's attributes. Function names as node types are not on the allowlist."""
    for value in node.attr.values():
        yield from (function.name for function in (value.func, *value.list.func) if function.name)
