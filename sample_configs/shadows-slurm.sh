#!/bin/bash
# Shadow models on a SLURM cluster: every task of the array is a worker on one folder that all nodes see.
#
#   unlearn-audit shadows plan /shared/shadows unlearned.safetensors --forget idx.npy --count 64 --device cuda
#   sbatch --export=ALL,FLEET=/shared/shadows shadows-slurm.sh
#   unlearn-audit shadows status /shared/shadows
#
# Tasks and models need not be as many: a worker takes the next model until none is left, and ends. One that is
# killed, preempted or out of time costs nothing but its last minute: its model is gone on with by another one, or by
# the next array that is submitted with the same command. For CPUs remove the line on GPUs, and plan with --device cpu.
#SBATCH --job-name=shadows
#SBATCH --array=0-15
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-task=1
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --output=shadows-%A-%a.log
#SBATCH --open-mode=append
set -eu
: "${FLEET:?name the folder of the fleet: sbatch --export=ALL,FLEET=DIR}"
export OMP_NUM_THREADS=1 # as everywhere else: other threads give other last bits
exec unlearn-audit shadows worker "$FLEET"
