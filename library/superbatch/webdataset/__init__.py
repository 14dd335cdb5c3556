"""WebDataset tars that keep joint batches whole: rank-sliced, written offline or served live, and the set of uids.

A stock webdataset reader gives tar i of its list to rank i mod R, and the tars of a rank in turn to its workers. Tar
t*R + r therefore holds exactly what rank r trains on in its t-th loader batch, and the reader yields slot range r of
batch k at step k, for every number of workers. Standard library, pyarrow and httpx; webdataset itself is not needed.

layout        which rows each tar holds, and its name
tar_writer    one tar, the same bytes every time
tar_folder    tars on disk
export        a job into such a folder
serving       the same tars over HTTP, as the batches are composed
uid_set       DataComp's `.npy`
Nothing is imported here: a trainer needs the layout only.
"""
