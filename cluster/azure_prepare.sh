#!/bin/bash
# Makes what azure_mi300x.yaml needs and Ray does not make: the network of the name that Ray will look for, from which an NFS folder
# (Azure Files) can be reached, and that folder. Prints the sed script that writes its address and the subscription into the file:
#   fill=$(bash cluster/azure_prepare.sh) && sed -i "$fill" cluster/azure_mi300x.yaml
# Given again, as it must be after `ray down`, it finds the folder that it made. Needs the Azure CLI, signed in.
set -euo pipefail
said() { awk -v key="$1:" '$1 == key { print $2; exit }' "$(dirname "$0")/azure_mi300x.yaml"; }
group=$(said resource_group)
network=ray-$(said cluster_name)-$(said unique_id)
subscription=$(az account show --query id -o tsv)
account=s2v$(echo "$subscription" | tr -d - | cut -c1-16) # of all there are, none may have the same name
{
    az group create -n "$group" -l "$(said location)"
    az network vnet show -g "$group" -n "$network-vnet" ||
        az network vnet create -g "$group" -n "$network-vnet" --address-prefixes "$(said subnet_mask)" \
            --subnet-name "$network-subnet" --subnet-prefixes "$(said subnet_mask)"
    az network vnet subnet update -g "$group" --vnet-name "$network-vnet" -n "$network-subnet" --service-endpoints Microsoft.Storage
    az storage account create -g "$group" -n "$account" --kind FileStorage --sku Premium_LRS --https-only false --default-action Deny
    from_here=(-g "$group" --account-name "$account" --vnet-name "$network-vnet" --subnet "$network-subnet")
    az storage account network-rule remove "${from_here[@]}" || true # of a network of that name that `ray down` took away
    az storage account network-rule add "${from_here[@]}"
    az storage share-rm create -g "$group" --storage-account "$account" -n shared --quota 1024 --enabled-protocols NFS \
        --root-squash NoRootSquash
} >&2
echo "s/s2v00000000/$account/g; s/00000000-0000-0000-0000-000000000000/$subscription/"
