#!/bin/bash
# Makes what aws_l40s.yaml needs and Ray does not make: an NFS folder (EFS) in the default network, and a security group that lets the
# cluster's machines talk to each other and to the folder, and lets this address in by SSH. Prints the sed script that writes them and
# the machine image (NVIDIA's driver, Ubuntu 22.04) into the file:
#   fill=$(bash cluster/aws_prepare.sh) && sed -i "$fill" cluster/aws_l40s.yaml
# Given again, it finds what it made. Needs the AWS CLI, signed in.
set -euo pipefail
name=s2v-l40s
region=$(awk '$1 == "region:" { print $2 }' "$(dirname "$0")/aws_l40s.yaml")
aws() { command aws --region "$region" --output text "$@"; }

image=$(aws ssm get-parameter --query Parameter.Value \
    --name /aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id)

network=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true --query 'Vpcs[0].VpcId')
group=$(aws ec2 describe-security-groups --query 'SecurityGroups[].GroupId' \
    --filters "Name=vpc-id,Values=$network" "Name=group-name,Values=$name")
if [ -z "$group" ]; then
    group=$(aws ec2 create-security-group --vpc-id "$network" --group-name $name --description "ray_s2v" --query GroupId)
    aws ec2 authorize-security-group-ingress --group-id "$group" --protocol all --source-group "$group" >&2
    aws ec2 authorize-security-group-ingress --group-id "$group" --protocol tcp --port 22 \
        --cidr "$(curl -fsS https://checkip.amazonaws.com)/32" >&2
fi

of_our_name="FileSystems[?CreationToken=='$name']"
files=$(aws efs describe-file-systems --query "$of_our_name.FileSystemId")
if [ -z "$files" ]; then
    files=$(aws efs create-file-system --creation-token $name --encrypted --throughput-mode elastic --query FileSystemId)
    until [ "$(aws efs describe-file-systems --query "$of_our_name.LifeCycleState")" = available ]; do sleep 5; done
    for subnet in $(aws ec2 describe-subnets --filters "Name=vpc-id,Values=$network" Name=default-for-az,Values=true \
        --query 'Subnets[].SubnetId'); do
        aws efs create-mount-target --file-system-id "$files" --subnet-id "$subnet" --security-groups "$group" >&2
    done
    not_yet="MountTargets[?LifeCycleState!='available'].SubnetId"
    until [ -z "$(aws efs describe-mount-targets --file-system-id "$files" --query "$not_yet")" ]; do sleep 10; done
fi

echo "s/ami-00000000000000000/$image/; s/sg-00000000000000000/$group/; s/fs-00000000000000000[.]efs[.][a-z0-9-]*/$files.efs.$region/"
